"""crossview doctor: what this machine has, what is wrong with it and what to do about that.

A check asks the machine, and a pure function beside it, its finding, judges the answer. Only the
standard library is imported here, so that `python -m pipelines.doctor` runs where packages are
missing. What may crash, as drivers do, or hang, is tried in a process of its own: a probe.
"""
