"""What ``opuslive init`` is to make, from options, answers and defaults. Nothing is written."""
