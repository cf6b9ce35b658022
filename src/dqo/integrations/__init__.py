"""The only packages that import a training host."""
