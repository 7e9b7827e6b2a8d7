module github.com/tranship/tranship/test/bed

go 1.26.0
