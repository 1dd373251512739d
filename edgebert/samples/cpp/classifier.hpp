// From a text to an answer, with ONNX Runtime.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "wordpiece.hpp"

namespace edgebert {

/// score: a probability; the number itself for a regression; a sum of two logits for an answer from a text.
struct Answer {
    std::optional<std::string> text, label;
    double score;
};

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<double> softmax(std::vector<double> logits) {
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double& one : logits) sum += one = std::exp(one - largest);
    for (double& one : logits) one /= sum;
    return logits;
}

/// Which operating point to run of so many, 1 the largest: a step down for each degree of heat, and one to save the battery.
/// heat: 0 as usual, 1 the system throttles, 2 it is about to stop. saving: low battery, or power-saving mode.
inline int point_for(int points, int heat, bool saving) { return std::min(points, 1 + heat + (saving ? 1 : 0)); }

class Classifier {
  public:
    /// point: of a bundle with several operating points, the one to run.
    explicit Classifier(const std::string& bundle, int point = 1)
        : app(Json::parse(read_file(bundle + "/samples/app.json"))), length(static_cast<int>(app["length"].number)),
          tokenizer(app["tokenizer"], read_file(bundle + "/vocab.txt")),
          file(file_of(app, point)), session_(environment(), (bundle + "/" + file).c_str(), options()) {
        for (const Json& label : Json::parse(read_file(bundle + "/labels.json")).list) labels.push_back(label.text);
    }

    /// What the model says about a text, or a pair of texts: labels with the likeliest first, the labels that apply, a
    /// number, a tag for each word, or a piece of the second text.
    std::vector<Answer> classify(const std::string& text, const std::string* pair = nullptr) {
        const Row row = tokenizer.encode(text, pair, length);
        return read(logits(row), row, text, pair);
    }

    /// One number for each label, or so many for each token of the row.
    std::vector<double> logits(const Row& row) {
        Ort::AllocatorWithDefaultOptions allocator;
        std::vector<Ort::AllocatedStringPtr> names;
        std::vector<const char*> given;
        std::vector<Ort::Value> values;
        std::vector<std::vector<int64_t>> longs(session_.GetInputCount());
        std::vector<std::vector<int32_t>> ints(session_.GetInputCount());
        const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        for (size_t i = 0; i < session_.GetInputCount(); ++i) {
            names.push_back(session_.GetInputNameAllocated(i, allocator));
            given.push_back(names.back().get());
            const std::string name = given.back();
            const auto type = session_.GetInputTypeInfo(i);
            const auto info = type.GetTensorTypeAndShapeInfo();
            const int64_t fixed = info.GetShape()[1];
            const size_t size = fixed > 0 ? static_cast<size_t>(fixed) : row.ids.size();
            const std::vector<int> ones(row.ids.size(), 1);
            const std::vector<int>& from = name == "input_ids" ? row.ids : name == "attention_mask" ? ones : row.types;
            longs[i].assign(from.begin(), from.end());
            longs[i].resize(size, name == "input_ids" ? tokenizer.pad() : 0);
            ints[i].assign(longs[i].begin(), longs[i].end());
            const int64_t shape[] = {1, static_cast<int64_t>(size)};
            if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
                values.push_back(Ort::Value::CreateTensor<int64_t>(memory, longs[i].data(), size, shape, 2));
            else
                values.push_back(Ort::Value::CreateTensor<int32_t>(memory, ints[i].data(), size, shape, 2));
        }
        const char* asked[] = {"logits"};
        auto found = session_.Run(Ort::RunOptions{nullptr}, given.data(), values.data(), values.size(), asked, 1);
        const auto shape = found[0].GetTensorTypeAndShapeInfo().GetShape();
        const float* data = found[0].GetTensorData<float>();
        const size_t count = shape.size() == 3 ? row.ids.size() * static_cast<size_t>(shape[2])
                                               : static_cast<size_t>(shape[1]);
        return {data, data + count};
    }

    std::vector<Answer> read(const std::vector<double>& logits, const Row& row, const std::string& text,
                             const std::string* pair) const {
        const std::string& kind = app["kind"].text;
        std::vector<Answer> found;
        if (kind == "single_label_classification") {
            const std::vector<double> scores = softmax(logits);
            for (size_t i = 0; i < scores.size(); ++i) found.push_back({std::nullopt, labels[i], scores[i]});
            std::stable_sort(found.begin(), found.end(),
                             [](const Answer& one, const Answer& other) { return one.score > other.score; });
        } else if (kind == "multi_label_classification") {
            for (size_t i = 0; i < logits.size(); ++i)
                if (logits[i] > 0) found.push_back({std::nullopt, labels[i], 1 / (1 + std::exp(-logits[i]))});
        } else if (kind == "regression") {
            found.push_back({std::nullopt, std::nullopt, logits[0]});
        } else if (kind == "token_classification") {
            found = tags(logits, row, text);
        } else if (pair) {
            found.push_back(answer(logits, row, *pair));
        } else {
            throw std::runtime_error("give a question and a text");
        }
        return found;
    }

    const Json app;
    const int length;
    const WordPiece tokenizer;
    std::vector<std::string> labels;
    const std::string file;

  private:
    static std::string file_of(const Json& app, int point) {
        const std::vector<Json>& points = app["points"].list;
        if (point < 1 || static_cast<size_t>(point) > points.size())
            throw std::runtime_error("this bundle has " + std::to_string(points.size()) + " operating points, and no " +
                                     std::to_string(point));
        return points[static_cast<size_t>(point) - 1]["onnx"].text;
    }

    static constexpr size_t kLongestAnswer = 30;  // tokens

    static Ort::Env& environment() {
        static Ort::Env shared(ORT_LOGGING_LEVEL_WARNING, "edgebert");
        return shared;
    }

    Ort::SessionOptions options() const {
        Ort::SessionOptions chosen;
        chosen.SetIntraOpNumThreads(static_cast<int>(app["threads"].number));
        return chosen;
    }

    /// The tag of each word is that of the first token in it.
    std::vector<Answer> tags(const std::vector<double>& logits, const Row& row, const std::string& text) const {
        std::vector<Answer> found;
        size_t token = 0;
        for (const Place& word : tokenizer.words(text)) {
            while (token < row.ids.size() && row.places[token].second <= word.first) ++token;
            if (token == row.ids.size() || row.places[token].first >= word.second) continue;  // nothing left of the word
            const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(token * labels.size());
            const std::vector<double> scores = softmax({begin, begin + static_cast<std::ptrdiff_t>(labels.size())});
            const auto best = std::max_element(scores.begin(), scores.end());
            found.push_back({text.substr(static_cast<size_t>(word.first), static_cast<size_t>(word.second - word.first)),
                             labels[static_cast<size_t>(best - scores.begin())], *best});
        }
        return found;
    }

    /// The piece of the context with the largest sum of a start and an end.
    static Answer answer(const std::vector<double>& logits, const Row& row, const std::string& context) {
        Answer best{"", std::nullopt, -std::numeric_limits<double>::infinity()};
        const auto inside = [&row](size_t i) { return row.types[i] == 1 && row.places[i].first >= 0; };
        for (size_t i = 0; i < row.ids.size(); ++i)
            for (size_t j = i; inside(i) && j < std::min(i + kLongestAnswer, row.ids.size()); ++j)
                if (const double score = logits[2 * i] + logits[2 * j + 1]; inside(j) && score > best.score)
                    best = {context.substr(static_cast<size_t>(row.places[i].first),
                                           static_cast<size_t>(row.places[j].second - row.places[i].first)),
                            std::nullopt, score};
        return best;
    }

    Ort::Session session_;
};

}  // namespace edgebert
