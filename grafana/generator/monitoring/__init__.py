"""The dashboard "Monitoring health": does the monitoring itself work, from the exporter to the message?

layout.py puts it together; tiles.py, scrapes.py and messages.py have its panels, common.py what they share.
"""
