"""What is one run, from recipe to folder?"""
