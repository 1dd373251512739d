// classify BUNDLE "a text" ["a second text"]     or     classify BUNDLE --golden     with --point N first for that point

#include <cstdio>
#include <exception>
#include <string>

#include "classifier.hpp"

namespace {

/// Ids and logits of the point's golden.json against our own. Returns whether they agree.
bool check_golden(edgebert::Classifier& classifier, const std::string& bundle, int point) {
    const std::string name = point == 1 ? "/golden.json" : "/golden_point" + std::to_string(point) + ".json";
    const edgebert::Json golden = edgebert::Json::parse(edgebert::read_file(bundle + name));
    double errors = 0, truths = 0;
    for (const edgebert::Json& row : golden["rows"].list) {
        const std::string* pair = row.has("pair") ? &row["pair"].text : nullptr;
        const edgebert::Row made = classifier.tokenizer.encode(row["text"].text, pair, classifier.length);
        std::vector<int> expected;
        for (size_t i = 0; i < row["input_ids"].list.size(); ++i)
            if (row["attention_mask"].list[i].number != 0)
                expected.push_back(static_cast<int>(row["input_ids"].list[i].number));
        if (made.ids != expected) {
            std::fprintf(stderr, "other ids for %s\n", row["text"].text.c_str());
            return false;
        }
        std::vector<double> truth;
        for (const edgebert::Json& one : row["logits"].list) {
            if (one.list.empty()) truth.push_back(one.number);
            for (const edgebert::Json& each : one.list) truth.push_back(each.number);
        }
        const std::vector<double> logits = classifier.logits(made);
        if (logits.size() != truth.size()) {
            std::fprintf(stderr, "%zu logits instead of %zu\n", logits.size(), truth.size());
            return false;
        }
        for (size_t i = 0; i < truth.size(); ++i) {
            errors += (logits[i] - truth[i]) * (logits[i] - truth[i]);
            truths += truth[i] * truth[i];
        }
    }
    const double off = std::sqrt(errors / truths);
    const double bound = golden["bounds"][classifier.file]["relative_rmse"].number;
    std::printf("%zu golden rows: the same ids; logits off by %.1e, allowed %.1e\n", golden["rows"].list.size(), off, bound);
    if (off <= bound) return true;
    std::fprintf(stderr, "the logits are too far off\n");
    return false;
}

}  // namespace

int main(int count, char** words) try {
    int point = 1;
    if (count > 2 && std::string(words[1]) == "--point") {
        point = std::stoi(words[2]);
        count -= 2;
        words += 2;
    }
    if (count < 3 || count > 4) {
        std::fprintf(stderr, "usage: classify BUNDLE TEXT [SECOND TEXT]   or   classify BUNDLE --golden\n");
        return 2;
    }
    const std::string bundle = words[1], text = words[2], second = count == 4 ? words[3] : "";
    edgebert::Classifier classifier(bundle, point);
    if (text == "--golden") return check_golden(classifier, bundle, point) ? 0 : 1;
    for (const edgebert::Answer& one : classifier.classify(text, count == 4 ? &second : nullptr))
        std::printf("%s%s%s%s%.4f\n", one.text ? one.text->c_str() : "", one.text ? "\t" : "",
                    one.label ? one.label->c_str() : "", one.label ? "\t" : "", one.score);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
