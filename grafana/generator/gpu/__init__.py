"""The dashboard "GPU": every device that is scraped, and who uses it.

layout.py puts it together; tables.py and charts.py have its panels, common.py what they share.
"""
