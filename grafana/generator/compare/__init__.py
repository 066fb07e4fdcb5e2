"""The dashboard "Compare runs": runs of any day side by side, over steps and over hours since each one's start.

layout.py puts it together; tables.py has settings and results, curves.py the charts and how they get an axis of steps.
"""
