"""The catalogue as pictures and one page: `nnkernels gallery`.

`drawings` says what is drawn of each row, `pictures` draws it with matplotlib, `page` puts it into HTML.
"""
