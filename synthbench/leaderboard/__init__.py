"""Results that can be checked by others: bundles of runs, what follows from what is in them, and a page of those that agree.

bundle.py  a run or comparison as one file     archive.py  such a file, which anybody may have written
verify.py  what in it agrees                   site.py     the leaderboard
"""
