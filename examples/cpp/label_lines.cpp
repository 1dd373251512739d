// Labels every line of the standard input:  label_lines BUNDLE [--least SCORE] [--point N] < texts > labelled.tsv
//
// A line out for each line in: the answers, the likeliest first, as LABEL SCORE pairs, then the text, tabs between. Two texts on a
// line, a tab between them, are a pair. --least: leave answers below that score out. At the end, on the standard error: how long a
// line took.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "classifier.hpp"

namespace {

struct Request {
    std::string bundle;
    double least = 0;
    int point = 1;
};

Request parse(int count, char** words) {
    Request found;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const bool more = i + 1 < count;
        if (word == "--least" && more) {
            found.least = std::stod(words[++i]);
        } else if (word == "--point" && more) {
            found.point = std::stoi(words[++i]);
        } else if (found.bundle.empty() && word.rfind("--", 0) != 0) {
            found.bundle = word;
        } else {
            throw std::invalid_argument(word);
        }
    }
    if (found.bundle.empty()) throw std::invalid_argument("no bundle");
    return found;
}

/// The middle one, and the one that nine in ten keep below; milliseconds.
void tell(std::vector<double> took) {
    if (took.empty()) return;
    std::sort(took.begin(), took.end());
    const auto at = [&took](double share) { return took[static_cast<size_t>(share * static_cast<double>(took.size() - 1))]; };
    std::fprintf(stderr, "%zu lines; from text to answer p50 %.2f ms, p90 %.2f ms\n", took.size(), at(.5), at(.9));
}

}  // namespace

int main(int count, char** words) try {
    Request asked;
    try {
        asked = parse(count, words);
    } catch (const std::logic_error&) {  // also a number that is none
        std::fprintf(stderr, "usage: label_lines BUNDLE [--least SCORE] [--point N] < texts > labelled.tsv\n");
        return 2;
    }
    edgebert::Classifier classifier(asked.bundle, asked.point);
    std::vector<double> took;
    for (std::string line; std::getline(std::cin, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        const size_t tab = line.find('\t');
        const std::string text = line.substr(0, tab), second = tab == std::string::npos ? "" : line.substr(tab + 1);
        const auto began = std::chrono::steady_clock::now();
        const std::vector<edgebert::Answer> answers = classifier.classify(text, tab == std::string::npos ? nullptr : &second);
        took.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count());
        for (const edgebert::Answer& one : answers)
            if (one.score >= asked.least)
                std::printf("%s%s%s\t%.4f\t", one.text ? one.text->c_str() : "", one.text && one.label ? ": " : "",
                            one.label ? one.label->c_str() : "", one.score);
        std::printf("%s\n", line.c_str());
    }
    tell(took);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
