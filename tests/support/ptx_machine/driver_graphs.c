/* Capture of a stream, and graphs, which are replayed in the order of what was captured. */
#include "driver.h"

#include <stdlib.h>

static Graph *graphs;

/* The graph of a handle, recorded or ready to be launched. */
static Graph *as_graph(void *handle, int ready) {
    for (Graph *graph = graphs; graph; graph = graph->next) {
        if (graph == handle && graph->alive && graph->ready == ready) return graph;
    }
    fail(CUDA_ERROR_INVALID_VALUE, "%p is no %s", handle, ready ? "graph to launch" : "graph");
    return NULL;
}

static Graph *new_graph(void) {
    Graph *graph = calloc(1, sizeof *graph);
    *graph = (Graph){.next = graphs, .operations = {NULL, &graph->operations.first}, .alive = 1};
    return graphs = graph;
}

static void add_copies(Graph *to, const Graph *from) {
    for (Operation *operation = from->operations.first; operation; operation = operation->next) {
        append(&to->operations, copied(operation));
    }
}

static CUresult destroy(void *handle, int ready) {
    Graph *graph = as_graph(handle, ready);
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    forget(&graph->operations);
    graph->alive = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
    ENTER(CONTEXT);
    Stream *stream = as_stream(handle);
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "capturing what is no stream");
    if (stream == &legacy) return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "capturing the legacy stream");
    if (stream->capturing) return fail(CUDA_ERROR_ILLEGAL_STATE, "the stream is being captured already");
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    stream->capturing = new_graph();
    stream->mode = mode;
    stream->thread = pthread_self();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *result) {
    ENTER(CONTEXT);
    Stream *stream = as_stream(handle);
    *result = NULL;
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "ending the capture of what is no stream");
    if (!stream->capturing) return fail(CUDA_ERROR_ILLEGAL_STATE, "the stream is not being captured");
    int own = pthread_equal(stream->thread, pthread_self());
    if (stream->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !own) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    Graph *graph = stream->capturing;
    stream->capturing = NULL;
    if (graph->invalidated) {
        destroy(graph, 0);
        return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was invalidated");
    }
    *result = (CUgraph)graph;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    ENTER(CONTEXT);
    Stream *stream = as_stream(handle);
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "the capture of what is no stream");
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (stream->capturing) *status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (stream->capturing && stream->capturing->invalidated) *status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *ready, CUgraph handle, unsigned long long flags) {
    ENTER(CONTEXT);
    Graph *graph = as_graph(handle, 0);
    if (!graph || flags) return CUDA_ERROR_INVALID_VALUE;
    Graph *copy = new_graph();
    copy->ready = 1;
    add_copies(copy, graph);
    *ready = (CUgraphExec)copy;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
    ENTER(CONTEXT);
    return destroy(handle, 0);
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
    ENTER(CONTEXT);
    return destroy(handle, 1); /* what was launched is in its stream */
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec handle, CUstream where) {
    ENTER(CONTEXT);
    Graph *graph = as_graph(handle, 1);
    Stream *stream = as_stream(where);
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    if (!stream) return fail(CUDA_ERROR_INVALID_HANDLE, "a graph in what is no stream");
    if (stream->capturing) return invalidate(stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a graph");
    CUresult result = CUDA_SUCCESS;
    Operation *operation = graph->operations.first;
    for (; operation && result == CUDA_SUCCESS; operation = operation->next) result = put(stream, operation);
    return result;
}
