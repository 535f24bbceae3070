# Every tag of the image: `docker buildx bake` builds `slim` for CUDA 12.1,
# `docker buildx bake full-cu128` the one with both base models for RTX 50.
# Set variables from the environment: IMAGE=ghcr.io/me/tenner VERSION=1.0 docker buildx bake --push all

variable "IMAGE" { default = "tenner" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "" }
variable "SOURCE" { default = "" }
# zstd layers are about a fifth smaller than gzip's and unpack several times faster, where the host
# takes them (Docker 20.10 and containerd 1.5 do).
variable "COMPRESSION" { default = "gzip" }
variable "OUTPUT" { default = "type=docker" }

group "default" { targets = ["slim-cu121"] }
group "all" { targets = ["image"] }

target "image" {
  name = "${models}-${cuda.name}"
  matrix = {
    models = ["slim", "sd15", "sdxl", "full"]
    cuda = [
      { name = "cu121", driver = "525.60.13" },
      { name = "cu128", driver = "525.60.13" },
    ]
  }
  target = "image"
  args = {
    CUDA              = cuda.name
    MODELS            = models
    MINIMUM_DRIVER    = cuda.driver
    VERSION           = VERSION
    REVISION          = REVISION
    SOURCE            = SOURCE
    SOURCE_DATE_EPOCH = "0"
  }
  # CUDA 12.1 is what a tag without a CUDA line means.
  tags = cuda.name == "cu121" ? [
    "${IMAGE}:${models}", "${IMAGE}:${models}-cu121", "${IMAGE}:${VERSION}-${models}-cu121",
  ] : ["${IMAGE}:${models}-${cuda.name}", "${IMAGE}:${VERSION}-${models}-${cuda.name}"]
  output = ["${OUTPUT}"]
}

# The same image, to push, with equal bytes from equal builds.
target "push" {
  name     = "push-${models}-${cuda}"
  matrix   = { models = ["slim", "sd15", "sdxl", "full"], cuda = ["cu121", "cu128"] }
  inherits = ["${models}-${cuda}"]
  output = [
    "type=image,push=true,rewrite-timestamp=true,oci-mediatypes=true,compression=${COMPRESSION},force-compression=true"
  ]
  attest = ["type=provenance,mode=max", "type=sbom"]
}
