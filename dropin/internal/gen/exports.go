package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// A kind is what a name denotes.
type kind int

const (
	isConst kind = iota
	isVar
	isType
	isFunc
)

// An export is a name that a package exports, or a method "Type.Name" of an exported type.
type export struct {
	kind kind
	fn   *ast.FuncType // of a function
}

// exports returns the names that the package in a directory exports. It reads the files for linux/amd64
// without cgo, because net exports the same names on all systems.
func exports(dir string) (map[string]export, error) {
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", false
	pkg, err := ctx.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	all := make(map[string]export)
	fset := token.NewFileSet()
	for _, name := range pkg.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range f.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				addFunc(all, decl)
			case *ast.GenDecl:
				addNames(all, decl)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s exports nothing", dir)
	}
	return all, nil
}

func addFunc(all map[string]export, decl *ast.FuncDecl) {
	name := decl.Name.Name
	if !ast.IsExported(name) {
		return
	}
	if decl.Recv != nil {
		recv := decl.Recv.List[0].Type
		if star, ok := recv.(*ast.StarExpr); ok {
			recv = star.X
		}
		id, ok := recv.(*ast.Ident) // there are no exported generic types
		if !ok || !id.IsExported() {
			return
		}
		name = id.Name + "." + name
	}
	all[name] = export{isFunc, decl.Type}
}

func addNames(all map[string]export, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() {
				all[spec.Name.Name] = export{kind: isType}
			}
		case *ast.ValueSpec:
			k := isVar
			if decl.Tok == token.CONST {
				k = isConst
			}
			for _, id := range spec.Names {
				if id.IsExported() {
					all[id.Name] = export{kind: k}
				}
			}
		}
	}
}

// isMethod reports whether an exported name is a method's.
func isMethod(name string) bool { return strings.Contains(name, ".") }
