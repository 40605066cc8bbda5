"""Who runs independent tasks: one process, or Ray on all cores and machines."""
