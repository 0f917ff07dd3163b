"""Results that can be checked by others: bundles of runs, what follows from what is in them, and pages of those that agree.

bundle.py   a run or comparison as one file               recompute.py, verify.py, show.py  what in it agrees
archive.py  such a file, which anybody may have written   site.py                           the leaderboard
"""
