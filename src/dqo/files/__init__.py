"""What lies on disk, and may it be trusted?"""
