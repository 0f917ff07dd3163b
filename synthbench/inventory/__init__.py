"""What there is, for people: plugins, protocols, recipes, volumes, runs, and the machine. For `list`, `show` and `doctor`.

cards.py     what is known of a plugin without importing it     describe.py   one thing with all its settings: `show`
listing.py   tables of what there is: `list`                    machine.py    `doctor`, `data overlap`
"""
