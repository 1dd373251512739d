package edgebert

import kotlin.math.sqrt

/** How far a file is from its golden rows: [off] is the relative RMSE of the logits, [allowed] what the bundle was made with. */
data class GoldenCheck(val rows: Int, val off: Double, val allowed: Double) {
    val ok get() = off <= allowed
}

/**
 * Does a file answer here as it did when the bundle was made? Throws IllegalStateException where a text gets other token ids.
 *
 * @param golden the content of golden.json. @param file the name of the model file that [classifier] runs.
 */
fun checkGolden(classifier: Classifier, golden: String, file: String): GoldenCheck {
    val values = Json.parse(golden) as Map<*, *>
    val rows = (values["rows"] as List<*>).map { it as Map<*, *> }
    var errors = 0.0
    var truths = 0.0
    for (row in rows) {
        val made = classifier.tokenizer.encode(row["text"] as String, row["pair"] as String?, classifier.length)
        val count = numbers(row["attention_mask"]).count { it != 0.0 }
        check(made.ids.map { it.toDouble() } == numbers(row["input_ids"]).take(count)) { "other ids for ${row["text"]}" }
        val truth = numbers(row["logits"])
        val logits = classifier.logits(made)
        check(logits.size == truth.size) { "${logits.size} logits instead of ${truth.size}" }
        truth.forEachIndexed { place, value ->
            errors += (logits[place] - value) * (logits[place] - value)
            truths += value * value
        }
    }
    val bound = ((values["bounds"] as Map<*, *>)[file] as Map<*, *>)["relative_rmse"] as Double
    return GoldenCheck(rows.size, sqrt(errors / truths), bound)
}

/** A list of numbers, or of lists of them. */
private fun numbers(value: Any?): List<Double> = (value as List<*>).flatMap { if (it is List<*>) it else listOf(it) }.map { it as Double }
