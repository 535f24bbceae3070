"""The trainer's process: started, followed, judged, rescued, ended."""
