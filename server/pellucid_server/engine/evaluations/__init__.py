"""The kinds of evaluation, and the handle that methods ask for them."""
