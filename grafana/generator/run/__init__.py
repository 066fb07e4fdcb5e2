"""The dashboard "Training run": everything about one run.

layout.py puts it together; tiles.py, tables.py, charts.py and events.py show its figures; learning_signals.py,
validation_signals.py and pace_signals.py show what each alert looks at, with the line beyond which it fires.
"""
