"""The name of a family of base models, such as `sdxl`. `tenner.families` describes each."""

Family = str
