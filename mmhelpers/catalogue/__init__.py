"""A shop that draws itself: specs, pictures, words and the truth about what fits what."""
