"""The processes of a node: slots, their keeper, what they may use, and the code that they are given."""
