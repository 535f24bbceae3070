"""What people and programs are told while a run goes on."""
