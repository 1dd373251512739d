#include "session.h"

#include <dlfcn.h>
#include <string.h>

#include "failure.h"

/* Every function used here is in the table of API version 11 (ONNX Runtime 1.11, 2022) at the same place: the table
   only ever grows at its end, so the oldest version that has them all serves newer libraries as well. */
enum { OLDEST_API = 11 };

static const char *const INPUT_NAMES[MOST_INPUTS] = {"input_ids", "attention_mask", "token_type_ids"};

/* Ends the process with the runtime's own first line when a call has failed. */
static void check(const struct session *session, OrtStatus *status, const char *doing) {
  if (status == NULL) return;
  const char *reason = session->runtime.api->GetErrorMessage(status);
  fail(EXIT_DEVICE, "%s %s by onnxruntime %s: %.*s", session->file_name, doing, session->runtime.version,
       (int)strcspn(reason, "\n"), reason);
}

struct runtime load_runtime(const char *library) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    fail(EXIT_DEVICE, "cannot load the runtime (%s); give --library a libonnxruntime.so built for this device", dlerror());
  }
  const OrtApiBase *(*get_base)(void);
  *(void **)&get_base = dlsym(handle, "OrtGetApiBase"); /* POSIX's own way to make a function of an object pointer */
  if (get_base == NULL) fail(EXIT_DEVICE, "%s is no ONNX Runtime: it has no OrtGetApiBase", library);
  struct runtime runtime = {get_base()->GetApi(OLDEST_API), NULL, get_base()->GetVersionString()};
  if (runtime.api == NULL) {
    fail(EXIT_DEVICE, "%s is ONNX Runtime %s; version 1.%d or later is needed", library, runtime.version, OLDEST_API);
  }
  OrtStatus *status = runtime.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bench", &runtime.env);
  if (status != NULL) {
    fail(EXIT_DEVICE, "ONNX Runtime %s does not start: %s", runtime.version, runtime.api->GetErrorMessage(status));
  }
  return runtime;
}

/* The input of that number. The process ends with code 6 unless it is one of a text encoder's. */
static struct input described(const struct session *session, size_t number, OrtAllocator *allocator) {
  const OrtApi *api = session->runtime.api;
  char *name = NULL;
  check(session, api->SessionGetInputName(session->handle, number, allocator, &name), "cannot be read");
  struct input input = {.kind = 0};
  while (input.kind < MOST_INPUTS && strcmp(name, INPUT_NAMES[input.kind]) != 0) ++input.kind;
  if (input.kind == MOST_INPUTS) {
    fail(EXIT_DEVICE, "%s has an input %s; expected input_ids, attention_mask and perhaps token_type_ids",
         session->file_name, name);
  }
  strcpy(input.name, INPUT_NAMES[input.kind]);
  check(session, api->AllocatorFree(allocator, name), "cannot be read");

  OrtTypeInfo *type = NULL;
  const OrtTensorTypeAndShapeInfo *tensor = NULL;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  check(session, api->SessionGetInputTypeInfo(session->handle, number, &type), "cannot be read");
  check(session, api->CastTypeInfoToTensorInfo(type, &tensor), "cannot be read");
  if (tensor != NULL) {
    check(session, api->GetTensorElementType(tensor, &element), "cannot be read");
    check(session, api->GetDimensionsCount(tensor, &rank), "cannot be read");
  }
  input.is_int64 = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  if ((!input.is_int64 && element != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) || rank != 2) {
    fail(EXIT_DEVICE, "%s: input %s is not int32 or int64 [batch, length]", session->file_name, input.name);
  }
  int64_t dimensions[2];
  check(session, api->GetDimensions(tensor, dimensions, 2), "cannot be read");
  api->ReleaseTypeInfo(type);
  input.batch = dimensions[0];
  input.length = dimensions[1];
  return input;
}

struct session open_session(struct runtime runtime, const char *path, const char *file_name, int threads) {
  struct session session = {.runtime = runtime, .file_name = file_name};
  const OrtApi *api = runtime.api;
  OrtSessionOptions *options = NULL;
  check(&session, api->CreateSessionOptions(&options), "cannot be opened");
  check(&session, api->SetIntraOpNumThreads(options, threads), "cannot be opened");
  check(&session, api->SetInterOpNumThreads(options, 1), "cannot be opened");
  check(&session, api->SetSessionExecutionMode(options, ORT_SEQUENTIAL), "cannot be opened");
  check(&session, api->CreateSession(runtime.env, path, options, &session.handle), "is refused");

  OrtAllocator *allocator = NULL;
  check(&session, api->GetAllocatorWithDefaultOptions(&allocator), "cannot be read");
  size_t count = 0;
  check(&session, api->SessionGetInputCount(session.handle, &count), "cannot be read");
  struct input found[MOST_INPUTS];
  bool present[MOST_INPUTS] = {false};
  for (size_t i = 0; i < count; ++i) {
    const struct input input = described(&session, i, allocator);
    found[input.kind] = input;
    present[input.kind] = true;
  }
  if (!present[IDS] || !present[MASK]) {
    fail(EXIT_DEVICE, "%s lacks the input %s", file_name, INPUT_NAMES[present[IDS] ? MASK : IDS]);
  }
  for (int kind = 0; kind < MOST_INPUTS; ++kind) {
    if (present[kind]) session.inputs[session.input_count++] = found[kind];
  }
  check(&session, api->SessionGetOutputCount(session.handle, &count), "cannot be read");
  for (size_t i = 0; i < count; ++i) {
    char *name = NULL;
    check(&session, api->SessionGetOutputName(session.handle, i, allocator, &name), "cannot be read");
    if (count == 1 || strcmp(name, "logits") == 0) session.output = name;
  }
  if (session.output == NULL) fail(EXIT_DEVICE, "%s has several outputs; name one of them logits", file_name);
  return session;
}

void bind_inputs(struct session *session, const int64_t *const rows[MOST_INPUTS], int64_t batch, int64_t length) {
  const OrtApi *api = session->runtime.api;
  OrtAllocator *allocator = NULL;
  check(session, api->GetAllocatorWithDefaultOptions(&allocator), "takes no inputs");
  const int64_t shape[2] = {batch, length};
  for (int i = 0; i < session->input_count; ++i) {
    const struct input *input = &session->inputs[i];
    const ONNXTensorElementDataType type =
        input->is_int64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    if (session->values[i] != NULL) api->ReleaseValue(session->values[i]);
    check(session, api->CreateTensorAsOrtValue(allocator, shape, 2, type, &session->values[i]), "takes no inputs");
    void *data = NULL;
    check(session, api->GetTensorMutableData(session->values[i], &data), "takes no inputs");
    for (int64_t at = 0; at < batch * length; ++at) {
      if (input->is_int64) {
        ((int64_t *)data)[at] = rows[input->kind][at];
      } else {
        ((int32_t *)data)[at] = (int32_t)rows[input->kind][at];
      }
    }
    session->names[i] = input->name;
  }
}

void run_session(struct session *session) {
  const OrtApi *api = session->runtime.api;
  if (session->answer != NULL) api->ReleaseValue(session->answer);
  session->answer = NULL;
  const char *output = session->output;
  OrtStatus *status = api->Run(session->handle, NULL, session->names, (const OrtValue *const *)session->values,
                               (size_t)session->input_count, &output, 1, &session->answer);
  check(session, status, "fails when it runs (with a small vocabulary pass --vocabulary)");
}

struct logits last_logits(const struct session *session) {
  const OrtApi *api = session->runtime.api;
  struct logits logits = {.rank = 0};
  OrtTensorTypeAndShapeInfo *info = NULL;
  ONNXTensorElementDataType element;
  check(session, api->GetTensorTypeAndShape(session->answer, &info), "gives no tensor");
  check(session, api->GetTensorElementType(info, &element), "gives no tensor");
  check(session, api->GetDimensionsCount(info, &logits.rank), "gives no tensor");
  if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || logits.rank < 2 || logits.rank > 3) {
    fail(EXIT_DEVICE, "%s: output %s is not float32 [batch, labels] or [batch, length, labels]", session->file_name,
         session->output);
  }
  check(session, api->GetDimensions(info, logits.shape, logits.rank), "gives no tensor");
  api->ReleaseTensorTypeAndShapeInfo(info);
  void *data = NULL;
  check(session, api->GetTensorMutableData(session->answer, &data), "gives no tensor");
  logits.values = data;
  return logits;
}
