"""`training-exporter run -- COMMAND`: any training command, watched from outside by the process that starts it.

    the command's Monitor -- events --> link.py ~~ socket ~~> hub.py --> watched.py (its RunState) --> a scrape
    the command itself ---- signals, exit status, memory --> child.py, tree.py, ending.py ----------/

The page is served by the parent, so a hang, a crash and a kill -9 of the command are seen and named by somebody who is
still there. The journal stays the command's own, and gets the end that a killed command could not write.
"""
