"""The plumbing of the course; what is taught stands in the notebooks."""

import warnings

# Progress bars are text here, so nobody needs the widgets that tqdm misses.
warnings.filterwarnings("ignore", message="IProgress not found")
