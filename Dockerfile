# The image: four programs, the libraries they need, and a user. How to run it: docs/deploy.md.
#
#   docker build --tag tasuki .                              for CPUs
#   docker build --tag tasuki:cuda --build-arg CUDA=1 .      with LibTorch's GPU libraries as well
FROM debian:bookworm-slim AS build
ARG CUDA=0
ENV LANG=C.UTF-8
WORKDIR /src
# What is fetched follows from these files alone, and so is fetched again only when they change.
COPY script/bootstrap script/wheels.bash script/
COPY script/requirements script/requirements
RUN if [ "$CUDA" = 1 ]; then script/bootstrap --cuda; else script/bootstrap; fi
COPY . .
RUN --mount=type=cache,target=/root/.cache/ccache \
    cmake --preset release -DTASUKI_TESTS=OFF -DCMAKE_SKIP_RPATH=ON \
    && cmake --build build/release --target tasukid tasuki-trainer tasuki tasuki-tokenizer-trainer \
    && mkdir -p /out/bin && cd build/release/bin \
    && cp tasukid tasuki-trainer tasuki tasuki-tokenizer-trainer /out/bin && strip /out/bin/*
# Of LibTorch what libtorch_cpu.so needs; for GPUs all of it, since much is opened by name.
RUN cd /root/.cache/tasuki/libtorch-* && mkdir /out/lib \
    && if [ "$CUDA" = 1 ]; then \
         find torch/lib nvidia -name '*.so*' ! -name 'libtorch_python*' -exec cp --parents -t /out/lib {} + \
         && cp /src/build/release/bin/libtasuki-cuda.so /out/lib/torch/lib; \
       else \
         { echo torch/lib/libtorch_cpu.so; ldd torch/lib/libtorch_cpu.so | awk '$3 ~ /libtorch-/ { print $3 }'; } \
         | xargs realpath --relative-to=. | xargs cp --parents -t /out/lib; \
       fi

FROM debian:bookworm-slim
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
         libgrpc++1.51 libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 libsentencepiece0 \
         libsoci-core4.0 libsoci-sqlite3-4.0 libspdlog1.10 libyaml-cpp0.7 \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 tasuki \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tasuki --shell /usr/sbin/nologin tasuki \
    && install -d -o tasuki -g tasuki -m 0750 /var/lib/tasuki
COPY --from=build /out/lib /usr/local/lib/tasuki
COPY --from=build /out/bin /usr/local/bin
RUN echo /usr/local/lib/tasuki/torch/lib >/etc/ld.so.conf.d/tasuki.conf && ldconfig \
    && if ldd /usr/local/bin/* | grep 'not found'; then exit 1; fi
# Other machines can reach these addresses. So tasukid does not start unless it is given TLS and tokens, or told that this is not meant (docs/security.md).
ENV TASUKI_DATA_DIR=/var/lib/tasuki \
    TASUKI_LISTEN=0.0.0.0:8500 \
    TASUKI_HEALTH_LISTEN=0.0.0.0:8501 \
    TASUKI_METRICS_LISTEN=0.0.0.0:9500 \
    TASUKI_LOG_FORMAT=json
EXPOSE 8500 8501 9500
VOLUME /var/lib/tasuki
USER 10001:10001
STOPSIGNAL SIGTERM
# Without the environment: what is meant for tasukid there (TASUKI_TLS_CERTIFICATE) would mean another thing to a client.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["env", "-i", "/usr/local/bin/tasuki", "--server", "127.0.0.1:8501", "server", "health"]
ENTRYPOINT ["tasukid"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tasuki" \
      org.opencontainers.image.description="Fine-tunes T5 text classifiers as managed jobs and serves them over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="debian:bookworm-slim"
