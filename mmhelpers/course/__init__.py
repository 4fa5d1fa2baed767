"""What makes notebooks a course: sizes, what they hand on, how they are run, exercises."""
