# docker build -t lorawright .
# docker build -t lorawright:cuda --build-arg TORCH_INDEX= \
#     --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
# docker run --rm -v "$PWD:/work" lorawright check config.yaml
ARG BASE=python:3.12-slim
FROM ${BASE}

# torch's own index has builds without CUDA, a tenth of the size; empty: PyPI, whose build has CUDA
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve

RUN python3 -c 'import ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*)

COPY . /opt/lorawright
RUN sh /opt/lorawright/tools/install.sh /opt/lorawright /opt/venv "${TORCH_INDEX}" "${EXTRAS}"

ENV PATH=/opt/venv/bin:$PATH \
    HF_HOME=/work/.cache/huggingface \
    LORAWRIGHT_CACHE=/work/.cache/lorawright
RUN useradd --create-home lorawright && mkdir /work && chown lorawright /work
USER lorawright
WORKDIR /work
ENTRYPOINT ["lorawright"]
CMD ["--help"]
