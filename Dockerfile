# Keepgate with its bundled models. Mount a repository of your own and set KEEPGATE_MODELS to serve it.
#
#     docker build -t keepgate .
#     docker run --rm -p 8001:8001 keepgate
#
# Durable sessions: give it a volume that user 10001 may write, or a Redis.
#
#     docker run --rm -p 8001:8001 -v keepgate:/data -e KEEPGATE_STORE=sqlite:/data/sessions.db \
#         -e KEEPGATE_DURABILITY=always keepgate

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN deploy/install.sh /opt/keepgate

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin keepgate \
    && mkdir --mode=0700 /data && chown 10001 /data
COPY --from=build /opt/keepgate /opt/keepgate
ENV PATH=/opt/keepgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    KEEPGATE_HOST=0.0.0.0 \
    KEEPGATE_HTTP_ADDRESS=0.0.0.0:8002 \
    KEEPGATE_LOG_FORMAT=json \
    KEEPGATE_KERNEL_CACHE=/opt/keepgate/kernel-cache
USER 10001
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["keepgate", "health"]
ENTRYPOINT ["keepgate"]
CMD ["serve"]
