# Every tag of the image.
#
#   docker buildx bake                   `slim` with CUDA 12.1, into the local engine
#   docker buildx bake full-cu128        both base models, CUDA 12.8 for RTX 50
#   docker buildx bake all
#
# Variables come from the environment: IMAGE=ghcr.io/me/tenner VERSION=1.0 docker buildx bake
# zstd layers, about a fifth smaller than gzip and several times faster to unpack, for hosts that
# take them:
#   docker buildx bake --set '*.output=type=registry,oci-mediatypes=true,compression=zstd,compression-level=12,force-compression=true'

variable "IMAGE" { default = "tenner" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "" }
variable "SOURCE" { default = "" }
variable "CREATED" { default = "" }
variable "BASE_NAME" { default = "" }
variable "BASE_DIGEST" { default = "" }
# A day of Debian's archive, such as 20260101T000000Z, for two builds that are equal.
variable "APT_SNAPSHOT" { default = "" }

group "default" { targets = ["slim-cu121"] }
group "all" { targets = ["image"] }

target "image" {
  name   = "${models}-${cuda}"
  matrix = {
    models = ["slim", "sd15", "sdxl", "full"]
    cuda   = ["cu121", "cu128"]
  }
  target = "image"
  args = {
    CUDA     = cuda
    MODELS   = models
    VERSION  = VERSION
    REVISION = REVISION
    SOURCE   = SOURCE
    CREATED  = CREATED
    BASE_NAME = BASE_NAME
    BASE_DIGEST = BASE_DIGEST
    APT_SNAPSHOT = APT_SNAPSHOT
    # One date for all files, so that a layer whose content did not change is not pulled again
    # (with `rewrite-timestamp=true` in the output).
    SOURCE_DATE_EPOCH = "1735689600"
  }
  # A tag without a CUDA line means CUDA 12.1.
  tags = concat(
    ["${IMAGE}:${models}-${cuda}", "${IMAGE}:${VERSION}-${models}-${cuda}"],
    cuda == "cu121" ? ["${IMAGE}:${models}"] : [],
  )
  output = ["type=docker"]
}
