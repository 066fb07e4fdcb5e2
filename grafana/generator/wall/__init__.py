"""The dashboard "Training wall": from four metres it says "All well", or what is wrong.

layout.py puts it together, runs.py chooses the run that it shows, verdict.py says how all is, tiles.py and charts.py
show that run's figures.
"""
