package edgebert

import kotlin.math.exp

/** A runtime with the bundle's model file open. */
interface Model : AutoCloseable {
    /** The lengths of rows it takes, smallest first; none for any length. */
    val lengths: List<Int>

    /** One row -> logits: one for each label, or so many for each token of the row. All three arrays are of one length. */
    fun run(ids: IntArray, mask: IntArray, types: IntArray): FloatArray
}

/** [score]: a probability; the number itself for a regression; a sum of two logits for an answer from a text. */
data class Answer(val text: String?, val label: String?, val score: Double)

/**
 * From a text to an answer.
 *
 * @param app the content of app.json. @param labels of labels.json. @param vocabulary of vocab.txt.
 */
class Classifier(app: String, labels: String, vocabulary: String, private val model: Model) : AutoCloseable by model {
    private val settings = Json.parse(app) as Map<*, *>
    private val labels = (Json.parse(labels) as List<*>).map { it as String }
    private val kind = settings["kind"] as String
    val length = (settings["length"] as Number).toInt()
    val tokenizer = WordPiece(settings["tokenizer"] as Map<*, *>, vocabulary)

    /**
     * What the model says about a text, or a pair of texts: labels with the likeliest first, the labels that apply, a
     * number, a tag for each word, or a piece of the second text.
     */
    fun classify(text: String, pair: String? = null): List<Answer> {
        val row = tokenizer.encode(text, pair, length)
        return read(logits(row), row, text, pair)
    }

    fun logits(row: Row): FloatArray {
        val count = row.ids.size
        val length = model.lengths.firstOrNull { it >= count } ?: count
        val ids = IntArray(length) { if (it < count) row.ids[it] else tokenizer.pad }
        val logits = model.run(ids, IntArray(length) { if (it < count) 1 else 0 }, row.types.copyOf(length))
        return if (kind in PER_TOKEN) logits.copyOf(count * (logits.size / length)) else logits
    }

    private fun read(logits: FloatArray, row: Row, text: String, pair: String?): List<Answer> = when (kind) {
        "single_label_classification" ->
            softmax(logits).mapIndexed { i, score -> Answer(null, labels[i], score) }.sortedByDescending { it.score }
        "multi_label_classification" ->
            logits.map { 1 / (1 + exp(-it.toDouble())) }.mapIndexed { i, score -> Answer(null, labels[i], score) }
                .filter { it.score > 0.5 }
        "regression" -> listOf(Answer(null, null, logits[0].toDouble()))
        "token_classification" -> tags(logits, row, text)
        else -> listOf(answer(logits, row, requireNotNull(pair) { "give a question and a text" }))
    }

    /** The tag of each word is that of the first token in it. */
    private fun tags(logits: FloatArray, row: Row, text: String): List<Answer> {
        var token = 0
        return tokenizer.words(text).mapNotNull { word ->
            while (token < row.ids.size && row.tokens[token].end <= word.first) token++
            if (token == row.ids.size || row.tokens[token].start > word.last) return@mapNotNull null // nothing left of it
            val scores = softmax(logits.copyOfRange(token * labels.size, (token + 1) * labels.size))
            val best = scores.indices.maxByOrNull { scores[it] }!!
            Answer(text.substring(word), labels[best], scores[best])
        }
    }

    /** The piece of the context with the largest sum of a start and an end. */
    private fun answer(logits: FloatArray, row: Row, context: String): Answer {
        var best = Answer("", null, Double.NEGATIVE_INFINITY)
        val inside = row.ids.indices.filter { row.types[it] == 1 && row.tokens[it].start >= 0 }
        for (first in inside) for (last in inside.filter { it in first until first + LONGEST_ANSWER }) {
            val score = logits[2 * first].toDouble() + logits[2 * last + 1]
            if (score > best.score) {
                best = Answer(context.substring(row.tokens[first].start, row.tokens[last].end), null, score)
            }
        }
        return best
    }

    companion object {
        private const val LONGEST_ANSWER = 30 // tokens
        private val PER_TOKEN = setOf("token_classification", "question_answering")

        private fun softmax(logits: FloatArray): List<Double> {
            val largest = logits.maxOrNull()!!
            val powers = logits.map { exp((it - largest).toDouble()) }
            return powers.map { it / powers.sum() }
        }
    }
}
