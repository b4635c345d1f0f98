"""What a budget costs on a user's own text: measured, judged against a bound, and remembered for `--budget auto`."""
