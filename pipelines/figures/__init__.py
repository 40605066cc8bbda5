"""What pages and commands show: charts, completions, matches."""
