"""One encoding for every label map (seeds, grown seeds, pseudo labels, ground truth, predictions), uint8.

0 is background, 1..C are the classes in the order of classes.txt.
"""

UNLABELLED = 255
