"""What the commands of the command line do: from what was asked for to what is printed."""
