"""A version of the model store as a folder of another library's form: Hugging Face's, by a mapping of names."""
