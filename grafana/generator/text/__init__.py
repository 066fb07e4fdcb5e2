"""The dashboard "Text quality": what the model writes, its scores, and what is expected of each stage.

layout.py puts it together; scores.py has the figures, samples.py the texts, guide.py the guide's and the profile's
words.
"""
