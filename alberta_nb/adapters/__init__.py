"""Learners inside other libraries, each in a module that is loaded by name: nothing here is loaded by the core."""
