"""Asking servers for files, and taking what they send with care."""
