"""The maintainer: watches over everything, repairs, cleans up, backs up, updates, and reports."""
