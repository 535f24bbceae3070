"""The trainer's process: started, followed, judged, restarted, stopped."""
