"""The commands of `crossview`, one module each: add(commands) its options, run(options) the work.

Importing one is cheap; what the work needs is imported when it runs.
"""
