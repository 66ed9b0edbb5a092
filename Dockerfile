# imlctl on the CPU.
#
#   docker build -t imlctl .
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/data" imlctl \
#       localize photos/ -o case/ --recursive --all
#
# The image contains the weights and needs no network. Dockerfile.cuda is for NVIDIA graphics cards.

FROM python:3.12-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/imlctl

# The largest part comes first and without the sources, so that a change of them does not fetch it
# again. PyTorch's own index has builds without CUDA, which take a quarter of the space.
COPY constraints.txt ./
RUN /opt/imlctl/bin/pip install --constraint constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch

# The package of `heif`, which reads HEIC, contains x265, under the GPL 2. Leave it out of an image
# that you pass on under other terms: --build-arg EXTRAS=
ARG EXTRAS=heif
COPY pyproject.toml weights.toml README.md LICENSE ./
COPY configs/ configs/
COPY examples/ examples/
COPY man/ man/
COPY src/ src/
RUN /opt/imlctl/bin/pip install --constraint constraints.txt ".[$EXTRAS]"


FROM python:3.12-slim-bookworm

LABEL org.opencontainers.image.title="imlctl" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /opt/imlctl /opt/imlctl
# HOME: any user may run the image, even one that it does not know.
ENV PATH="/opt/imlctl/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp
RUN useradd --uid 10001 --no-create-home --home-dir /tmp imlctl
USER 10001
WORKDIR /data

# The build fails if a package is missing or the weights do not compute what they should.
RUN ["imlctl", "doctor"]

ENTRYPOINT ["imlctl"]
CMD ["--help"]
