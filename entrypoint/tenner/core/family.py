"""The name of a family of base models, such as `sdxl`. `tenner.families` says what each is."""

Family = str
