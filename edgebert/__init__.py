"""edgebert turns a fine-tuned BERT into the best model that fits a phone."""
