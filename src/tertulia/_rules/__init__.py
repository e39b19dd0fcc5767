"""Pure decisions: no await, no clock, no input or output. Everything they need is an argument."""
