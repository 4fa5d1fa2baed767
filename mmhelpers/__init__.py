"""The plumbing of the course; what is taught stands in the notebooks."""

import warnings

from mmhelpers.course.hosts import set_up

__all__ = ["set_up"]

# Progress bars are text here, so nobody needs the widgets that tqdm misses.
warnings.filterwarnings("ignore", message="IProgress not found")
