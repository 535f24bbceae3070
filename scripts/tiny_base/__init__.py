"""How the tiny base model and the demo's concept are made: pictures, words, training, export."""
