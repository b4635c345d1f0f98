"""Generated tasks: what a model must remember of a text or a conversation, with exact answers.

They serve evaluation of any model, the demo, and the training of the bundled model. Every item follows from its seed.
"""

from .item import ACKNOWLEDGEMENT, Item, Question, count_words
from .registry import TASKS, Parameters, Task

__all__ = ["ACKNOWLEDGEMENT", "TASKS", "Item", "Parameters", "Question", "Task", "count_words"]
